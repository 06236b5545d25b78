//! RabbitMQ, through amqprs.
